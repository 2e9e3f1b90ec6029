"""A session on Kaggle: how long it lasts, and how much of it the kit's kernel leaves for the end."""

SESSION_HOURS = 12.0
"""Kaggle's limit."""

SESSION_MARGIN = 0.05
"""The share of a session that is kept for writing and uploading the output: training stops before it."""
