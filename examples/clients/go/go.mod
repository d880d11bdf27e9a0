module example.com/safety-client

go 1.24

require (
	google.golang.org/grpc v1.73.0
	google.golang.org/protobuf v1.36.6
)
