"""The only room that imports Ray: clusters, trials, the coordinator, the ledger, the campaign."""
