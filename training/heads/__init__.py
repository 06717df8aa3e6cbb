"""How the heads of the embedded models were trained."""
