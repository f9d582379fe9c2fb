"""The commands of ``txbroker``; ``broker.app.command`` joins them."""
