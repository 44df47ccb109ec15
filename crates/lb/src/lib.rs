//! Where does this connection go? A TCP balancer.
