//! Where the catalog is, and how it is asked: flags of whatever asks it.

use std::path::PathBuf;

use clap::Args;

/// Where the catalog is, and how it is asked.
#[derive(Args, Clone, Debug)]
pub struct CatalogArgs {
    /// URL of the catalog: http(s) for the Catalog API, postgres for its
    /// database. Without it, the file `api-url` of --catalog-credentials says
    /// where it is, which is the place for a URL with a password.
    #[arg(long, env = "CATALOG_MESH_CATALOG_URL", value_name = "URL")]
    pub catalog_url: Option<String>,

    /// Folder of the mounted Secret `catalog-credentials`, with the files
    /// `api-url` and `api-key`; for a database `api-url`, and `report-url`
    /// where reports have a role of their own. They are read again when they
    /// change.
    #[arg(
        long,
        env = "CATALOG_MESH_CATALOG_CREDENTIALS",
        value_name = "DIR",
        default_value = "/etc/catalog-credentials"
    )]
    pub catalog_credentials: PathBuf,

    /// File with a service-account token that is sent as a bearer token.
    #[arg(long, env = "CATALOG_MESH_CATALOG_TOKEN_FILE", value_name = "FILE")]
    pub catalog_token_file: Option<PathBuf>,

    /// PEM file of the authorities that may sign the catalog's certificate,
    /// instead of the system's (a database's: besides them). It is read again
    /// when it changes.
    #[arg(long, env = "CATALOG_MESH_CATALOG_CA_FILE", value_name = "FILE")]
    pub catalog_ca_file: Option<PathBuf>,

    /// Most calls to the catalog at once.
    #[arg(
        long,
        env = "CATALOG_MESH_CATALOG_CONCURRENCY",
        value_name = "N",
        default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..=1_000)
    )]
    pub catalog_concurrency: u16,

    /// Most calls to the catalog in a second; as many may go at once after a
    /// second of rest. Looks at bindings cost none while the catalog's event
    /// stream is followed.
    #[arg(
        long,
        env = "CATALOG_MESH_CATALOG_QPS",
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub catalog_qps: u32,
}
