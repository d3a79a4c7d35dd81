"""The cluster's operator: pod CIDRs, garbage collection, one at a time by a lease."""
