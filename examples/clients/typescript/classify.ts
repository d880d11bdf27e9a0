// Asks the safety service for one verdict: npm start -- TEXT
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { Role } from "./gen/evalfleet/common/v1/common_pb.ts";
import { Aspect, Decision, SafetyService } from "./gen/evalfleet/safety/v1/safety_pb.ts";

const text = process.argv[2];
if (text === undefined) {
  console.error("usage: npm start -- TEXT");
  process.exit(2);
}
const client = createClient(SafetyService, createGrpcTransport({ baseUrl: "http://127.0.0.1:8102" }));
const { verdict } = await client.classify(
  { conversation: { messages: [{ role: Role.USER, content: text }] }, aspect: Aspect.PROMPT },
  { timeoutMs: 30_000 },
);
// Anything but these two is "not judged", never "safe": an ERROR, or a value that this program does not know yet.
switch (verdict?.decision) {
  case Decision.SAFE:
    console.log("safe");
    break;
  case Decision.UNSAFE:
    for (const category of verdict.categories) {
      console.log("unsafe:", category.taxonomy, category.code, category.ailuminateCode);
    }
    break;
  default:
    console.error("not judged:", verdict?.errorReason);
    process.exit(1);
}
