"""The method: the conditional VAE, its networks, losses, schedules and time loop."""
