"""From an assignment and an image to what the runtime takes: config.json and a root."""
