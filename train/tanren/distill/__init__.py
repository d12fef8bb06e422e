"""A teacher's answers as training data: asked, measured, mended, and kept with where they come
from.

A teacher is any OpenAI-compatible endpoint, a model on this machine, or a run, so that a tuned
student can teach the next round. What an answer must hold to are constraints; what is wrong goes
back to the teacher in words and numbers. Every answer is on disk as soon as it is there.
"""
