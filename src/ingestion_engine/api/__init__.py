"""Routes, request and response models, problem+json; the composition root.

What does not belong: engine or pipeline knowledge.
"""
