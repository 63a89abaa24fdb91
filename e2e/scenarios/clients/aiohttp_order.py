"""Places an order with aiohttp and a retry loop of its own."""

import asyncio
import json
import sys

import aiohttp


async def main() -> None:
    url, body, tries, timeout = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    headers = {"Authorization": "Bearer demo", "Content-Type": "application/json"}
    result = {"attempts": 0, "status": None, "error": None}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout), headers=headers) as session:
        if len(sys.argv) > 5:
            async with session.get(sys.argv[5], timeout=aiohttp.ClientTimeout(total=30)) as answer:
                await answer.read()
        for attempt in range(1, tries + 1):
            try:
                async with session.post(url, data=body) as answer:
                    await answer.read()
                    result = {"attempts": attempt, "status": answer.status, "error": None}
                    if answer.status != 429 and answer.status < 500:
                        break
            except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as error:
                result = {"attempts": attempt, "status": None, "error": repr(error)}
            if attempt < tries:
                await asyncio.sleep(0.2 * 2 ** (attempt - 1))
    print(json.dumps(result))


asyncio.run(main())
