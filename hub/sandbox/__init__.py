"""The twin of the outside world: Twilio's REST API and TwiML, an SMTP sink, an IMAP server, and the people out there.

It shares no code with channels/ and imports nothing else of the product: what both sides got wrong would never show.
"""
