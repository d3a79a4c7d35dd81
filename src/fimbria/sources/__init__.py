"""Where the cluster's state comes from: the Kubernetes API and files. No logic here."""
