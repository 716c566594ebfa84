"""The protobuf messages of etcd, generated from our own `etcd.proto` when the project is built."""
