//! What do answers to health checks say about an endpoint, about its service,
//! and about which endpoints leave the mesh? Plain values with time as an
//! argument.
//!
//! A check gives an [`Answer`](judge::Answer); [`judge`] makes a verdict on
//! the endpoint of several; [`service`] sums verdicts up; [`ejection`] decides
//! who leaves the mesh and who comes back; and [`doubt`] says when no verdict
//! may move, since whoever checks may be at fault himself.
//!
//! Around them: [`targets`] says which endpoints may be checked at all, and
//! [`checked`] puts them together with what is held of them;
//! [`mark`] what stands on a Pod that we took out; [`round`] makes of all that
//! what is to be written, and [`pace`] when; [`outlier`] helps Envoy out where
//! an unhealthy endpoint has to stay. [`wanted`] says whose endpoints are to be
//! checked, [`summary`] what the status says of them, [`transitions`] which changes
//! it shows, and [`telling`] when.

pub mod address;
pub mod at;
pub mod by_address;
pub mod checked;
pub mod doubt;
pub mod ejection;
pub mod judge;
pub mod mark;
pub mod outlier;
pub mod pace;
pub mod room;
pub mod round;
pub mod service;
pub mod summary;
pub mod targets;
pub mod telling;
pub mod transitions;
pub mod wanted;
