//! This machine as a backend: the host as it is, or a virtual environment made by uv.
