"""Training, paper 4.2-4.3: latents once, then four stages on one loop, restartable at any moment."""
