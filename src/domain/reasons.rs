//! Types and reasons of conditions. They are API: users wait for them and
//! alert on them, so they change only with an entry in the CHANGELOG.

/// Summary of the others.
pub const READY: &str = "Ready";
/// Whether the catalog's record was read and understood.
pub const CATALOG_SYNCED: &str = "CatalogSynced";
/// Whether the mesh holds what catalog and binding say.
pub const MESH_PROGRAMMED: &str = "MeshProgrammed";
/// Health by the operator's own checks.
pub const HEALTHY: &str = "Healthy";
/// Whether somebody else's object or binding is in the way.
pub const CONFLICT: &str = "Conflict";
/// Whether the binding is frozen.
pub const SUSPENDED: &str = "Suspended";

/// Nothing is known of this generation yet.
pub const PROGRESSING: &str = "Progressing";
/// Catalog and mesh agree.
pub const SYNCED: &str = "Synced";
/// The objects are stored.
pub const PROGRAMMED: &str = "Programmed";
/// The record is another service's: its policy counts, nothing is reported.
pub const RECORD_MISMATCH: &str = "RecordMismatch";
/// Another process reports to the catalog as this cluster: nothing is reported.
pub const DUPLICATE_WRITER: &str = "DuplicateWriter";
/// Another record of the catalog names the same Service.
pub const ANOTHER_RECORD: &str = "AnotherRecord";
/// A record gets no binding, since one for another Service has its name.
pub const NAME_TAKEN: &str = "NameTaken";
/// The catalog gave no usable answer.
pub const CATALOG_UNAVAILABLE: &str = "CatalogUnavailable";
/// The catalog asked to be left alone for a while.
pub const CATALOG_RATE_LIMITED: &str = "CatalogRateLimited";
/// The catalog refused the credential.
pub const CATALOG_UNAUTHORIZED: &str = "CatalogUnauthorized";
/// The catalog says there is no such service; a second read will tell.
pub const NOT_FOUND: &str = "NotFound";
/// The service is gone from the catalog, as two reads and its list said.
pub const REMOVED: &str = "Removed";
/// The service is gone from the catalog, and the brake keeps what was made.
pub const DELETION_HELD: &str = "DeletionHeld";
/// The record has a value that is wrong or out of bounds.
pub const INVALID_RECORD: &str = "InvalidRecord";
/// The binding has a value that is wrong together with the record.
pub const INVALID_BINDING: &str = "InvalidBinding";
/// An object of that name is somebody else's.
pub const NOT_OURS: &str = "NotOurs";
/// Another binding for the Service is older.
pub const ANOTHER_BINDING: &str = "AnotherBinding";
/// The Service's Namespace does not allow bindings from this one.
pub const NAMESPACE_NOT_ALLOWED: &str = "NamespaceNotAllowed";
/// The Service's Namespace is none of those that the operator serves.
pub const NAMESPACE_NOT_SERVED: &str = "NamespaceNotServed";
/// Somebody else's rule claims the host.
pub const FOREIGN_RULE: &str = "ForeignRule";
/// Somebody takes a field back that we set.
pub const FIELD_FIGHT: &str = "FieldFight";
/// Nothing is in the way.
pub const NO_CONFLICT: &str = "NoConflict";
/// The API server refused a write.
pub const WRITE_REFUSED: &str = "WriteRefused";
/// The API server does not serve Istio's kinds.
pub const MESH_API_MISSING: &str = "MeshApiMissing";
/// There is no Service of that name.
pub const SERVICE_NOT_FOUND: &str = "ServiceNotFound";
/// The Service has no cluster IP.
pub const HEADLESS: &str = "Headless";
/// No port of the Service is declared as HTTP.
pub const NO_HTTP_PORT: &str = "NoHttpPort";
/// `suspend` on the binding.
pub const SUSPENDED_BY_BINDING: &str = "SuspendedByBinding";
/// `paused` on a Namespace.
pub const PAUSED: &str = "Paused";
/// Not frozen.
pub const ACTIVE: &str = "Active";
/// Neither catalog nor binding asks for checks.
pub const NOT_CONFIGURED: &str = "NotConfigured";
/// Checks are asked for, and nothing is judged yet.
pub const PROBING: &str = "Probing";
/// The binding is not in force, so nothing is checked for it.
pub const NOT_IN_FORCE: &str = "NotInForce";
/// There are endpoints, and none of them can be checked.
pub const NOT_CHECKABLE: &str = "NotCheckable";
/// No endpoint has ever answered this check as it should.
pub const CHECK_NEVER_SUCCEEDED: &str = "CheckNeverSucceeded";
/// The endpoints demand mutual TLS, and the check does not speak it.
pub const MTLS_REQUIRED: &str = "MTLSRequired";
/// The check needs a mesh certificate that is not there.
pub const NO_MESH_CERTIFICATE: &str = "NoMeshCertificate";
/// At least nine of ten endpoints are healthy.
pub const MOST_HEALTHY: &str = "Healthy";
/// At least half of the endpoints are healthy.
pub const DEGRADED: &str = "Degraded";
/// Fewer than half of the endpoints are healthy.
pub const UNHEALTHY: &str = "Unhealthy";
/// Endpoints became unhealthy: the reason of an Event.
pub const ENDPOINT_UNHEALTHY: &str = "EndpointUnhealthy";
/// Endpoints answer again: the reason of an Event.
pub const ENDPOINT_HEALTHY: &str = "EndpointHealthy";
/// No endpoint of the Service is ready.
pub const NO_ENDPOINTS: &str = "NoEndpoints";
