"""The Dockerfile language: text in, typed instructions with their places in the text out. Pure."""
