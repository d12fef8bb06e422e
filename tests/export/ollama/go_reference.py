"""The real Go over the same templates and data, where a `go` is found (PATH or TANREN_GO)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

PROGRAM = r"""
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type Call struct {
	ID       string
	Function struct {
		Index     int
		Name      string
		Arguments Args
	}
}

type Args map[string]any

func (a Args) String() string { b, _ := json.Marshal(a); return string(b) }

type Message struct {
	Role, Content, Thinking string
	Images                  [][]byte
	ToolCalls               []Call
	ToolName, ToolCallID    string
}

type Property struct {
	AnyOf       []Property `json:"anyOf,omitempty"`
	Type        any        `json:"type,omitempty"`
	Items       any        `json:"items,omitempty"`
	Description string     `json:"description,omitempty"`
	Enum        []any      `json:"enum,omitempty"`
}

type Properties map[string]Property

func (p Properties) String() string { b, _ := json.Marshal(p); return string(b) }

type Parameters struct {
	Type       string     `json:"type"`
	Defs       any        `json:"$defs,omitempty"`
	Items      any        `json:"items,omitempty"`
	Required   []string   `json:"required,omitempty"`
	Properties Properties `json:"properties"`
}

type Function struct {
	Name        string     `json:"name"`
	Description string     `json:"description"`
	Parameters  Parameters `json:"parameters"`
}

type Tool struct {
	Type     string   `json:"type"`
	Items    any      `json:"items,omitempty"`
	Function Function `json:"function"`
}

type Tools []Tool

func (t Tools) String() string { b, _ := json.Marshal(t); return string(b) }

type Case struct {
	Template   string
	Values     map[string]any // for snippets
	Messages   []*Message     // for chat templates
	System     string
	Tools      Tools
	Think, Set bool
}

type Answer struct{ Text, Error string }

var funcs = template.FuncMap{
	"json":          func(v any) string { b, _ := json.Marshal(v); return string(b) },
	"currentDate":   func(args ...string) string { return "2026-01-31" },
	"yesterdayDate": func(args ...string) string { return "2026-01-30" },
}

func plain(v any) any { // numbers without a point are ints, as in Go source
	switch v := v.(type) {
	case json.Number:
		if !strings.ContainsAny(v.String(), ".eE") {
			n, _ := v.Int64()
			return int(n)
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
	}
	return v
}

func answer(c Case) (a Answer) {
	t, err := template.New("").Option("missingkey=zero").Funcs(funcs).Parse(c.Template)
	if err != nil {
		return Answer{Error: err.Error()}
	}
	var b bytes.Buffer
	var data any
	if c.Messages != nil {
		data = map[string]any{"System": c.System, "Messages": c.Messages, "Tools": c.Tools,
			"Response": "", "Think": c.Think, "ThinkLevel": "", "IsThinkSet": c.Set}
	} else {
		data = plain(c.Values)
	}
	if err := t.Execute(&b, data); err != nil {
		return Answer{Error: err.Error()}
	}
	return Answer{Text: b.String()}
}

func main() {
	var cases []Case
	d := json.NewDecoder(os.Stdin)
	d.UseNumber()
	if err := d.Decode(&cases); err != nil {
		panic(err)
	}
	answers := make([]Answer, len(cases))
	for i, c := range cases {
		answers[i] = answer(c)
	}
	json.NewEncoder(os.Stdout).Encode(answers)
}
"""


def go_program() -> str | None:
    return os.environ.get("TANREN_GO") or shutil.which("go")


def answers(cases: list[dict[str, Any]], folder: Path) -> list[dict[str, str]]:
    """What Go says to each case: {"Text": ..., "Error": ...}."""
    (folder / "go.mod").write_text("module reference\ngo 1.21\n", encoding="utf-8")
    (folder / "main.go").write_text(PROGRAM, encoding="utf-8")
    environment = {
        **os.environ,
        "GOCACHE": os.environ.get("GOCACHE", str(folder / "cache")),
        "GOPATH": str(folder / "gopath"),
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=mod",
        "GOTELEMETRY": "off",
    }
    done = subprocess.run(
        [str(go_program()), "run", "."],
        cwd=folder,
        env=environment,
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
