"""What the service keeps: files, uploads, jobs, tuned models and keys, in a database and a folder.

`settings` are the service's own (`configs/serve.yaml`), `records` the plain values that everybody
else sees, `tables` how they are stored. Who brings jobs to their ends is `jobs`.
"""
