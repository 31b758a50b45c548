//! The real binaries, as users run them, in network namespaces made for one test.
#![forbid(unsafe_code)]
