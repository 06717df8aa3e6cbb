"""Run requests through a decoder with exits."""
