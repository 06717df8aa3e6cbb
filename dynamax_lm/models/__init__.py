"""The models that lm-eval registers, their settings, requests and sampling."""
