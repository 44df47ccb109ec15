//! One highly available endpoint for a Kubernetes control plane.

fn main() {}
