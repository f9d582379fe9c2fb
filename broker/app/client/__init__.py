"""What the commands for application developers do, by the client of the broker; ``broker.app.commands`` has them."""
