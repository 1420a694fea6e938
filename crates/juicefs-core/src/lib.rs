//! The vocabulary of a JuiceFS volume, and the three traits at which its layers meet: [`meta::Meta`],
//! [`store::ChunkStore`] and [`store::ObjectStorage`].
//!
//! Nothing here does I/O, starts a runtime or reads the environment.

pub mod acl;
pub mod attr;
pub mod budget;
pub mod buffer;
pub mod caller;
pub mod civil;
pub mod clock;
pub mod errno;
pub mod error;
pub mod format;
pub mod ids;
pub mod joint;
pub mod limits;
pub mod listing;
pub mod lock;
pub mod meta;
pub mod quota;
pub mod slice;
pub mod stamps;
pub mod store;
pub mod tree;
pub mod values;
pub mod version;

pub use attr::{Attr, FileType, SetAttr, SetTime, Timestamp};
pub use budget::{Budget, Lease, Share};
pub use buffer::Segments;
pub use caller::Caller;
pub use clock::{Clock, SystemClock};
pub use errno::Errno;
pub use error::{ChunkError, MetaError, MetaResult, StorageError};
pub use format::Format;
pub use ids::{ChunkIndex, Ino, Name, SessionId, SliceId, SliceKey};
pub use joint::{Joint, WeakJoint};
pub use listing::Listing;
pub use lock::{FileLocks, LockKind, LockOwner, LockRange, RangeLock};
pub use meta::Meta;
pub use quota::{Quota, QuotaSubject};
pub use slice::{Piece, SliceRecord};
pub use store::{ChunkStore, ObjectStorage, SliceWriter};
