// Places an order with Node's own fetch and a retry loop like that of vendors' SDKs: 408, 409, 429 and 5xx are tried again.

const [url, body, tries, timeout, first] = process.argv.slice(2);
const headers = { authorization: "Bearer demo", "content-type": "application/json" };
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

let result = { attempts: 0, status: null, error: null };
if (first) {
  await (await fetch(first, { headers })).text();
  // Whoever thinks for a moment gets the same connection again; whoever does not, a second one.
  await sleep(20);
}
for (let attempt = 1; attempt <= Number(tries); attempt++) {
  try {
    const signal = AbortSignal.timeout(Number(timeout) * 1000);
    const answer = await fetch(url, { method: "POST", headers, body, signal });
    await answer.text();
    result = { attempts: attempt, status: answer.status, error: null };
    if (![408, 409, 429].includes(answer.status) && answer.status < 500) break;
  } catch (error) {
    result = { attempts: attempt, status: null, error: `${error} ${error.cause ?? ""}` };
  }
  if (attempt < Number(tries)) await sleep(200 * 2 ** (attempt - 1));
}
console.log(JSON.stringify(result));
process.exit(0);
