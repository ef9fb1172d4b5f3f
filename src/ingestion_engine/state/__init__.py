"""All durable state in the state store: ledger, lease, object table. What does not belong: vendors, stages."""
