//! What the catalog's event stream says.

use futures::stream::BoxStream;

use super::error::CatalogError;
use super::report::WriterPosition;
use crate::domain::names::CatalogServiceId;
use crate::domain::record::CatalogPosition;

/// One event. It says "look at this again" and carries no truth.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CatalogEvent {
    /// Where to resume after it.
    pub position: CatalogPosition,
    /// What happened.
    pub kind: EventKind,
}

/// What happened in the catalog.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EventKind {
    /// A service was registered.
    Registered(CatalogServiceId),
    /// The owners' part of a service changed.
    Updated(CatalogServiceId),
    /// A service was taken out.
    Deregistered(CatalogServiceId),
    /// A cluster reported another health of a service.
    HealthChanged {
        /// The service.
        id: CatalogServiceId,
        /// Who reported it, where the catalog says so.
        writer: Option<WriterPosition>,
    },
    /// Nothing up to the position was left out.
    Bookmark,
    /// The stream cannot go on from where it was resumed; it goes on from the
    /// position, and what lies between must be listed.
    Reset {
        /// The catalog's words, escaped and bounded.
        reason: String,
    },
    /// A kind of event that this version does not know. Its position counts.
    Other,
}

/// Events in the order of their revisions. The stream ends, or fails once and
/// ends, when its connection does; it is resumed by subscribing again.
pub type EventStream = BoxStream<'static, Result<CatalogEvent, CatalogError>>;
