//! The subset of Istio's DestinationRule that we write.
