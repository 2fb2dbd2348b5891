"""The AMQP client: addresses, reconnecting connections and messages. Only this package uses aio-pika."""
