"""Picture quality: measures, reports and plots."""
