"""The protobuf messages of etcd, generated from the project's own `etcd.proto` when the project is built."""
