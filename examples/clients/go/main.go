// Command safety-client asks the safety service for one verdict.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	commonv1 "example.com/safety-client/gen/evalfleet/common/v1"
	safetyv1 "example.com/safety-client/gen/evalfleet/safety/v1"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: safety-client TEXT")
	}
	connection, err := grpc.NewClient("127.0.0.1:8102", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	turn := &commonv1.Message{Role: commonv1.Role_ROLE_USER, Content: os.Args[1]}
	response, err := safetyv1.NewSafetyServiceClient(connection).Classify(ctx, &safetyv1.ClassifyRequest{
		Conversation: &commonv1.Conversation{Messages: []*commonv1.Message{turn}},
		Aspect:       safetyv1.Aspect_ASPECT_PROMPT,
	})
	if err != nil {
		log.Fatal(err)
	}
	verdict := response.GetVerdict()
	// Anything but these two is "not judged", never "safe": an ERROR, or a value that this program does not know yet.
	switch verdict.GetDecision() {
	case safetyv1.Decision_DECISION_SAFE:
		fmt.Println("safe")
	case safetyv1.Decision_DECISION_UNSAFE:
		for _, category := range verdict.GetCategories() {
			fmt.Println("unsafe:", category.GetTaxonomy(), category.GetCode(), category.GetAiluminateCode())
		}
	default:
		log.Fatalf("not judged: %s %s", verdict.GetDecision(), verdict.GetErrorReason())
	}
}
