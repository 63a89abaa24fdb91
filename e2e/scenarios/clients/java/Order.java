import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;

/** Places an order with the JDK's HttpClient and a retry loop of its own. */
public final class Order {
    private static HttpRequest.Builder to(String url, Duration timeout) {
        return HttpRequest.newBuilder(URI.create(url))
                .timeout(timeout)
                .header("Authorization", "Bearer demo")
                .header("Content-Type", "application/json");
    }

    private static String print(int attempts, String status, String error) {
        String text = error == null ? "null" : '"' + error.replace("\\", "").replace("\"", "'") + '"';
        return "{\"attempts\": " + attempts + ", \"status\": " + status + ", \"error\": " + text + "}";
    }

    public static void main(String[] args) throws InterruptedException, IOException {
        int tries = Integer.parseInt(args[2]);
        Duration timeout = Duration.ofMillis((long) (Double.parseDouble(args[3]) * 1000));
        HttpClient client = HttpClient.newHttpClient();
        if (args.length > 4) {
            client.send(to(args[4], Duration.ofSeconds(30)).GET().build(), HttpResponse.BodyHandlers.ofString());
        }
        HttpRequest order = to(args[0], timeout).POST(HttpRequest.BodyPublishers.ofString(args[1])).build();
        String last = print(0, "null", null);
        for (int attempt = 1; attempt <= tries; attempt++) {
            try {
                int status = client.send(order, HttpResponse.BodyHandlers.ofString()).statusCode();
                last = print(attempt, Integer.toString(status), null);
                if (status != 429 && status < 500) {
                    break;
                }
            } catch (IOException error) {
                last = print(attempt, "null", error.toString());
            }
            if (attempt < tries) {
                Thread.sleep(200L << (attempt - 1));
            }
        }
        System.out.println(last);
        System.exit(0);
    }
}
