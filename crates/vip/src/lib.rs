//! Do I hold the address? Ownership of virtual IP addresses.
