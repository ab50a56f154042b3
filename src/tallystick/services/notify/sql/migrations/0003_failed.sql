-- The deliveries of an endpoint that failed, newest first, to be replayed. Without this all of its deliveries were read to list them.
CREATE INDEX delivery_failed ON delivery (endpoint, id DESC) WHERE status = 'failed';
