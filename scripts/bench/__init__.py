"""What the measuring scripts share: inputs made from seeds, fair turns, and reports."""
