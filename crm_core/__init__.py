"""The CRM core: contacts, consent, conversations, call records, outbox and the one way to the data."""
