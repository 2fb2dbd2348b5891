"""The AMQP client: addresses, connections that come back, messages; aio-pika is known here alone."""
