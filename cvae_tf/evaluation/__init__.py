"""Picture quality of exported models: measures, reports and plots."""
