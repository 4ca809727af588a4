"""The platform on Kubernetes: what a user says of it, and the manifests that follow."""
