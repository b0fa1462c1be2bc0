//! The subset of Istio's VirtualService that we write.
