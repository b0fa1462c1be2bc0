//! Why can it not be told what would change, and what is to be done about it?

use crate::catalog::error::CatalogError;
use crate::controller::error::{WriteError, brief};

/// Why it cannot be told what would change.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Unable(pub(super) String);

impl Unable {
    /// The API server did not do what was asked of it.
    pub(super) fn cluster(what: &str, error: &kube::Error) -> Self {
        let (words, remedy) = match error {
            kube::Error::Api(status) => {
                let remedy = match status.code {
                    401 => "log in to the cluster again",
                    403 => "ask for the rights that docs/flags.md names for diff",
                    404 => "install the CRDs: kubectl apply -f crds/",
                    410 => "the list took too long; try again",
                    _ => "try again",
                };
                (brief(&status.message), remedy)
            }
            _ => (
                WriteError::from_kube(error).to_string(),
                "check that the kubeconfig is the right one and its cluster can be reached",
            ),
        };
        Self(format!("cannot {what}: {words}; {remedy}"))
    }

    /// The catalog did not answer.
    pub(super) fn catalog(error: &CatalogError) -> Self {
        let remedy = match error {
            CatalogError::Unauthorized { .. } => {
                "check the files of --catalog-credentials and --catalog-token-file"
            }
            CatalogError::RateLimited { .. } => "try again later",
            _ => {
                "check --catalog-url and --catalog-credentials, or give its entries as a file by --catalog"
            }
        };
        Self(format!("{error}; {remedy}"))
    }
}
