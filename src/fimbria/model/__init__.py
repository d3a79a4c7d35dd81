"""What the cluster says, as frozen values: labels, identities, selectors, policies. No I/O."""
