//! How much of what the catalog no longer has would the deletion brake let go
//! now? The operator's own rules, by what its leaders noted. No IO.
//!
//! Of several that go at once the operator takes them as they come; here they
//! come by their names.

use crate::domain::brake::window::Window;
use crate::domain::brake::{self, CatalogView, Held, Limits, Removal};
use crate::domain::inputs::Inputs;

/// The brake as it is now.
pub(super) struct Brake {
    /// How far it lets go.
    pub(super) limits: Limits,
    /// How many bindings there are.
    pub(super) bindings: usize,
    /// What was removed lately.
    pub(super) window: Window,
    /// Why that is not known, where it is not.
    pub(super) blind: Option<String>,
    /// What the catalog's list says of whatever it lacks.
    pub(super) catalog: CatalogView,
    /// The time in seconds since 1970.
    pub(super) now: u64,
}

impl Brake {
    /// Lets the removal of what was made for the binding go and counts it, or
    /// says why it has to wait.
    pub(super) fn admit(&mut self, inputs: &Inputs) -> Result<(), Held> {
        let removal = Removal::of(&inputs.binding, self.bindings);
        let (limits, window) = (self.limits, &mut self.window);
        brake::admit(&removal, &self.catalog, limits, window, self.now)
    }
}
