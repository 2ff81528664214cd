"""The tests by kind: unit, contract, integration, e2e, faults, architecture; support is what they share."""
