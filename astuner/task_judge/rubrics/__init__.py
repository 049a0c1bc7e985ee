"""Rubrics: what an answer is graded by, their files, and how models draft and apply them."""
