"""How lm-eval finds our models and tasks."""
