"""OpenAI's API over the local service: files, uploads, fine-tuning jobs, models and chat.

`app.create_app` puts the rooms below together; `server.serve` runs it. Nothing here imports torch:
models live in the engine's process, and training in one process a job.
"""
