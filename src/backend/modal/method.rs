//! The calls that accel makes, each once: path, messages, retries, and which token it needs.

use std::marker::PhantomData;

use super::retry::RetryPolicy;
use super::wire::client as control;
use super::wire::task_command_router as router;

/// Which credentials a call of the control plane carries besides the headers of every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// None.
    Headers,
    /// The short-lived token of `AuthTokenGet`.
    Auth,
}

/// A call with the types of its request and response.
#[derive(Debug)]
pub struct Method<Request, Response> {
    pub name: &'static str,
    /// `/modal.client.ModalClient/AppGetOrCreate`
    pub path: &'static str,
    pub token: Token,
    pub retry: RetryPolicy,
    types: PhantomData<fn(Request) -> Response>,
}

impl<Request, Response> Clone for Method<Request, Response> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Request, Response> Copy for Method<Request, Response> {}

impl<Request, Response> Method<Request, Response> {
    const fn new(name: &'static str, path: &'static str, token: Token, retry: RetryPolicy) -> Self {
        Self { name, path, token, retry, types: PhantomData }
    }

    /// The same call with another way of being repeated.
    #[must_use]
    pub const fn with_retry(self, retry: RetryPolicy) -> Self {
        Self { retry, ..self }
    }
}

/// A call as the schema describes it, for the test that compares.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    pub path: &'static str,
    /// Rust type names; the last part is the message.
    pub request: fn() -> &'static str,
    pub response: fn() -> &'static str,
}

macro_rules! methods {
    ($service:literal, $($constant:ident: $name:ident($request:ty) -> $response:ty, $token:ident, $retry:ident;)*) => {
        $(pub const $constant: Method<$request, $response> = Method::new(
            stringify!($name),
            concat!("/", $service, "/", stringify!($name)),
            Token::$token,
            RetryPolicy::$retry,
        );)*

        /// Every call above.
        pub const ALL: &[Described] = &[$(Described {
            path: concat!("/", $service, "/", stringify!($name)),
            request: std::any::type_name::<$request>,
            response: std::any::type_name::<$response>,
        }),*];
    };
}

/// Calls of the control plane.
pub mod client {
    use super::control::*;
    use super::{Described, Method, RetryPolicy, Token};

    methods! { "modal.client.ModalClient",
        APP_GET_OR_CREATE: AppGetOrCreate(AppGetOrCreateRequest) -> AppGetOrCreateResponse, Headers, DEFAULT;
        APP_LIST: AppList(AppListRequest) -> AppListResponse, Headers, DEFAULT;
        APP_STOP: AppStop(AppStopRequest) -> (), Headers, DEFAULT;
        APP_FETCH_LOGS: AppFetchLogs(AppFetchLogsRequest) -> AppFetchLogsResponse, Headers, DEFAULT;
        ENVIRONMENT_GET_OR_CREATE: EnvironmentGetOrCreate(EnvironmentGetOrCreateRequest) -> EnvironmentGetOrCreateResponse, Headers, DEFAULT;
        ENVIRONMENT_LIST: EnvironmentList(()) -> EnvironmentListResponse, Headers, DEFAULT;
        CLIENT_HELLO: ClientHello(()) -> ClientHelloResponse, Headers, DEFAULT;
        AUTH_TOKEN_GET: AuthTokenGet(AuthTokenGetRequest) -> AuthTokenGetResponse, Headers, DEFAULT;
        WORKSPACE_NAME_LOOKUP: WorkspaceNameLookup(()) -> WorkspaceNameLookupResponse, Headers, NONE;
        WORKSPACE_BILLING_RATES: WorkspaceBillingRates(WorkspaceBillingRatesRequest) -> WorkspaceBillingRatesResponse, Headers, DEFAULT;
        SANDBOX_GET_STATS: SandboxGetStats(SandboxGetStatsRequest) -> SandboxGetStatsResponse, Auth, DEFAULT;
        SANDBOX_GET_RESOURCE_USAGE: SandboxGetResourceUsage(SandboxGetResourceUsageRequest) -> SandboxGetResourceUsageResponse, Headers, DEFAULT;
        IMAGE_GET_OR_CREATE: ImageGetOrCreate(ImageGetOrCreateRequest) -> ImageGetOrCreateResponse, Headers, DEFAULT;
        IMAGE_JOIN_STREAMING: ImageJoinStreaming(ImageJoinStreamingRequest) -> ImageJoinStreamingResponse, Headers, NONE;
        IMAGE_FROM_ID: ImageFromId(ImageFromIdRequest) -> ImageFromIdResponse, Headers, DEFAULT;
        IMAGE_DELETE: ImageDelete(ImageDeleteRequest) -> (), Headers, DEFAULT;
        MOUNT_BATCHED_CHECK_EXISTENCE: MountBatchedCheckExistence(MountBatchedCheckExistenceRequest) -> MountBatchedCheckExistenceResponse, Headers, FILES;
        MOUNT_PUT_FILE: MountPutFile(MountPutFileRequest) -> MountPutFileResponse, Headers, FILES;
        MOUNT_GET_OR_CREATE: MountGetOrCreate(MountGetOrCreateRequest) -> MountGetOrCreateResponse, Headers, FILES;
        BLOB_CREATE: BlobCreate(BlobCreateRequest) -> BlobCreateResponse, Headers, DEFAULT;
        BLOB_GET: BlobGet(BlobGetRequest) -> BlobGetResponse, Headers, DEFAULT;
        SECRET_GET_OR_CREATE: SecretGetOrCreate(SecretGetOrCreateRequest) -> SecretGetOrCreateResponse, Headers, DEFAULT;
        SECRET_LIST: SecretList(SecretListRequest) -> SecretListResponse, Headers, DEFAULT;
        VOLUME_GET_OR_CREATE: VolumeGetOrCreate(VolumeGetOrCreateRequest) -> VolumeGetOrCreateResponse, Headers, DEFAULT;
        VOLUME_LIST: VolumeList(VolumeListRequest) -> VolumeListResponse, Headers, DEFAULT;
        VOLUME_GET_FILE_2: VolumeGetFile2(VolumeGetFile2Request) -> VolumeGetFile2Response, Headers, DEFAULT;
        VOLUME_PUT_FILES_2: VolumePutFiles2(VolumePutFiles2Request) -> VolumePutFiles2Response, Headers, FILES;
        PROXY_GET: ProxyGet(ProxyGetRequest) -> ProxyGetResponse, Headers, DEFAULT;
        SANDBOX_CREATE: SandboxCreate(SandboxCreateRequest) -> SandboxCreateResponse, Headers, DEFAULT;
        SANDBOX_CREATE_V2: SandboxCreateV2(SandboxCreateV2Request) -> SandboxCreateV2Response, Auth, DEFAULT;
        SANDBOX_GET_TASK_ID: SandboxGetTaskId(SandboxGetTaskIdRequest) -> SandboxGetTaskIdResponse, Headers, DEFAULT;
        SANDBOX_GET_TASK_ID_V2: SandboxGetTaskIdV2(SandboxGetTaskIdRequest) -> SandboxGetTaskIdResponse, Auth, DEFAULT;
        SANDBOX_WAIT: SandboxWait(SandboxWaitRequest) -> SandboxWaitResponse, Headers, DEFAULT;
        SANDBOX_WAIT_V2: SandboxWaitV2(SandboxWaitRequest) -> SandboxWaitResponse, Auth, DEFAULT;
        SANDBOX_TERMINATE: SandboxTerminate(SandboxTerminateRequest) -> SandboxTerminateResponse, Headers, DEFAULT;
        SANDBOX_TERMINATE_V2: SandboxTerminateV2(SandboxTerminateRequest) -> SandboxTerminateResponse, Auth, DEFAULT;
        SANDBOX_GET_COMMAND_ROUTER_ACCESS: SandboxGetCommandRouterAccess(SandboxGetCommandRouterAccessRequest) -> SandboxGetCommandRouterAccessResponse, Auth, DEFAULT;
        TASK_GET_COMMAND_ROUTER_ACCESS: TaskGetCommandRouterAccess(TaskGetCommandRouterAccessRequest) -> TaskGetCommandRouterAccessResponse, Headers, DEFAULT;
        SANDBOX_GET_FROM_NAME: SandboxGetFromName(SandboxGetFromNameRequest) -> SandboxGetFromNameResponse, Headers, DEFAULT;
        SANDBOX_GET_FROM_NAME_V2: SandboxGetFromNameV2(SandboxGetFromNameRequest) -> SandboxGetFromNameResponse, Auth, DEFAULT;
        SANDBOX_LIST: SandboxList(SandboxListRequest) -> SandboxListResponse, Headers, DEFAULT;
        SANDBOX_LIST_V2: SandboxListV2(SandboxListRequest) -> SandboxListResponse, Auth, DEFAULT;
        SANDBOX_TAGS_GET: SandboxTagsGet(SandboxTagsGetRequest) -> SandboxTagsGetResponse, Headers, DEFAULT;
        SANDBOX_TAGS_GET_V2: SandboxTagsGetV2(SandboxTagsGetRequest) -> SandboxTagsGetResponse, Auth, DEFAULT;
        SANDBOX_TAGS_SET: SandboxTagsSet(SandboxTagsSetRequest) -> (), Headers, DEFAULT;
        SANDBOX_TAGS_SET_V2: SandboxTagsSetV2(SandboxTagsSetRequest) -> (), Auth, DEFAULT;
        SANDBOX_GET_TUNNELS: SandboxGetTunnels(SandboxGetTunnelsRequest) -> SandboxGetTunnelsResponse, Headers, DEFAULT;
        SANDBOX_GET_TUNNELS_V2: SandboxGetTunnelsV2(SandboxGetTunnelsRequest) -> SandboxGetTunnelsResponse, Auth, DEFAULT;
        SANDBOX_GET_LOGS: SandboxGetLogs(SandboxGetLogsRequest) -> TaskLogsBatch, Headers, NONE;
    }
}

/// Calls of a sandbox's command router.
pub mod task {
    use super::router::*;
    use super::{Described, Method, RetryPolicy, Token};

    methods! { "modal.task_command_router.TaskCommandRouter",
        EXEC_START: TaskExecStart(TaskExecStartRequest) -> TaskExecStartResponse, Headers, ROUTER;
        EXEC_STDIO_READ: TaskExecStdioRead(TaskExecStdioReadRequest) -> TaskExecStdioReadResponse, Headers, ROUTER;
        EXEC_STDIN_WRITE: TaskExecStdinWrite(TaskExecStdinWriteRequest) -> TaskExecStdinWriteResponse, Headers, ROUTER;
        EXEC_STDIN_STATUS: TaskExecStdinStatus(TaskExecStdinStatusRequest) -> TaskExecStdinStatusResponse, Headers, ROUTER;
        EXEC_STDIN_WRITE_STREAM: TaskExecStdinWriteStream(TaskExecStdinWriteStreamRequest) -> TaskExecStdinWriteStreamResponse, Headers, ROUTER;
        EXEC_POLL: TaskExecPoll(TaskExecPollRequest) -> TaskExecPollResponse, Headers, ROUTER;
        EXEC_WAIT: TaskExecWait(TaskExecWaitRequest) -> TaskExecWaitResponse, Headers, ROUTER;
        SANDBOX_STDIO_READ_V2: SandboxStdioReadV2(SandboxStdioReadV2Request) -> SandboxStdioReadV2Response, Headers, ROUTER;
        RELOAD_VOLUMES: TaskReloadVolumes(TaskReloadVolumesRequest) -> TaskReloadVolumesResponse, Headers, ROUTER;
        SNAPSHOT_DIRECTORY: TaskSnapshotDirectory(TaskSnapshotDirectoryRequest) -> TaskSnapshotDirectoryResponse, Headers, ROUTER;
        SNAPSHOT_FILESYSTEM: TaskSnapshotFilesystem(TaskSnapshotFilesystemRequest) -> TaskSnapshotFilesystemResponse, Headers, ROUTER;
        MOUNT_DIRECTORY: TaskMountDirectory(TaskMountDirectoryRequest) -> (), Headers, ROUTER;
        UNMOUNT_DIRECTORY: TaskUnmountDirectory(TaskUnmountDirectoryRequest) -> (), Headers, ROUTER;
    }
}
